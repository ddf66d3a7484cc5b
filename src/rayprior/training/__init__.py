"""That steps pass: recipes, tasks, the loop, and the folder of a run. It knows no paper."""
