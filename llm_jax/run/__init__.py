"""From a configuration to a trained model: resolve, build, train, evaluate, write, open again."""
