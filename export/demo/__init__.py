"""Makes the demo: videos with exact truth, a small detector trained on them, and the measure of both."""
