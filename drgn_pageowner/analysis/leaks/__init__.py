"""Reachability, leaks, and the paths that keep memory alive."""
