"""Flow models of two numbers, on which a method can be watched in seconds: a velocity network and scatter pictures. Importing it does nothing."""
