"""What pages about runs are made of: charts, tables, pictures and a run's own logs. A page loads nothing and holds no time: equal folders, equal bytes."""
