"""Builders of the model: each reads one of its objects from a program."""
