"""Radiance fields from imperfect captures. `import rayprior as rp`; names load when first used, torch with them."""
