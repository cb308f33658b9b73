// Package cli is the command line: it reads flags, environment and env file into configurations, and calls internal/app.
// No other package knows the name of a variable or a flag. Flags win over the environment, that over the env file, that
// over the defaults.
package cli
