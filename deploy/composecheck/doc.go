// Package composecheck has tests only: they load docker-compose.yml with the loader that Compose itself is built on,
// and hold it to what the product promises about it. No container engine is needed.
//
// It is a module of its own, so that the loader's dependencies are nobody else's.
package composecheck
