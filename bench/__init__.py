"""Measurements. They are run by hand; the tests never look at a clock."""
