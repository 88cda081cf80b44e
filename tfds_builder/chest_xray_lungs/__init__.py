"""chest_xray_lungs dataset."""
