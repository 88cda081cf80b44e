"""From files to radiographs, to the model's square and back, and the geometry of masks."""
