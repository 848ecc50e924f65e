"""An HTTP service: whole photographs to rows of faces, and faces to predictions."""
