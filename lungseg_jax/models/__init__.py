"""Segmentation networks; modules only, no training code."""
