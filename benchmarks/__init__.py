"""Measurements and what is drawn from their committed results."""
