"""The commands of `learner-worker`, a module for each group; `options` is what they share."""
