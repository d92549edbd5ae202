"""Parts of ``imputer``: what is asked for, how cells are estimated, what is stored beside."""
