"""Measurements, target beside measured; never a test. ``make bench`` runs all of them."""
