"""From views to matching pixels, and from matching pixels to what a descriptor network is judged by."""
