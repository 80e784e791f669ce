"""Reading what a build has made, finished or not."""
