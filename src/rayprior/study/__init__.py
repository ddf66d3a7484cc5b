"""Studies: which method is better, on which scenes, by how much: many short trainings, and what they show."""
