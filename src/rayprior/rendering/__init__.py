"""From rays to what they see: samplers, compositing, `Model`, `Rendering`, `RayDistribution`."""
