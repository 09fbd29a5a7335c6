"""The gateway: what `coatcheck run` serves."""
