"""Plain image networks: critic, refiner, image encoder, descriptors. Nothing above is imported."""
