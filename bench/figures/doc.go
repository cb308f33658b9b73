// Package figures keeps what was measured and judges it: results in a JSON file, medians with their spread, ratios
// against the targets, and the page made from them.
//
// It measures nothing and imports nothing of the product, so that its tests need no database.
package figures
