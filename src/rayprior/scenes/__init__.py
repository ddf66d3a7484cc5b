"""What was photographed: cameras, pictures, depth, points, splits, and the rays that may be drawn from them."""
