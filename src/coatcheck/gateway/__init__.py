"""The gateway: what `coatcheck run` serves, as a process of its own."""
