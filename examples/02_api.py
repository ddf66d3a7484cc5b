"""The Python API from a capture to numbers, with the shape of everything; the README shows this file whole."""

import torch

import rayprior as rp

scene = rp.load_scene("synthetic:still-life")  # or a capture's folder: every format becomes the same Scene
print(scene.cameras.c2w.shape)  # (views, 3, 4) float64: camera-to-world, OpenCV axes, working units
print(scene.pictures[0].shape)  # (height, width, 3 or 4) uint8, 4 where there is alpha
print(scene.split.train, scene.split.test)  # positions of the views that train and of those held out

run = rp.fit(rp.methods.grid, scene, seconds=20)  # or steps=...; trains, and keeps everything in a folder
run = rp.load_run(run.path)  # the same run, at any later time; run.recipe, run.model, run.read_log()

rays = scene.view_rays(scene.split.test[0])  # one ray a pixel, row by row
print(rays.origins.shape, rays.directions.shape)  # (height x width, 3) each; directions have length 1
with torch.no_grad():
    seen = run.model.render(rays[:500])  # a Rendering; the leading axis of everything in it is the ray

print(seen.rgb.shape)  # (500, 3) in [0, 1], composited on rays.background
print(seen.opacity.shape)  # (500,) share of the ray that met something
print(seen.distance.shape)  # (500,) median distance along the ray, working units
ends = seen.distribution  # where each ray ends, as a histogram: what every prior judges
print(ends.t.shape, ends.w.shape)  # (500, samples + 1) bin edges, (500, samples) weights, their sum <= 1
print(ends.mean.shape, ends.entropy.shape)  # (500,) expected distance; (500,) bits

points = rays[:500].at(seen.distance[:, None])[:, 0]  # (500, 3) in working units ...
points = scene.similarity.inverse().points(points)  # ... and in the capture's own units and axes

result = rp.evaluate(run.model, scene, scene.split.test)  # whole held-out views
print(result.mean["psnr"], result.mean["ssim"])  # the mean over views; result.views has each
print(result.protocol["split"], result.protocol["resolution"])  # a number never travels without these

forward = torch.tensor([[0.0, 0.0, 1.0]])
probe = rp.Rays.through(torch.zeros(1, 3), forward, near=0.1, far=4.0)  # rays of your own, no camera needed
print(scene.cameras.project(probe.at(torch.tensor([[1.0]]))[:, 0], torch.tensor([0])))  # pixel, distance, visible
