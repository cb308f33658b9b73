// Package web holds the page at / as embedded files. It is a leaf: it knows nothing of the product but its REST interface
// and its event stream, as any other client does.
package web
