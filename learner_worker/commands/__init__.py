"""The commands of `learner-worker`, one module per group; `options` holds shared flags."""
