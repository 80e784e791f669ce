"""From noise to pictures: schedules, samplers, guidance, and the pipeline that ties them to a model."""
