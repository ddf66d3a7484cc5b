"""Mathematics that knows no file, no pixel, no network: histograms on a line, poses, space, schedules."""
