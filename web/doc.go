// Package web is the dashboard: embedded files and the handler that serves them.
//
// It is a leaf: it knows no other package of this product and asks the server over REST and the socket like every other
// client. What it serves holds no secret and needs no credential; all that it shows comes from the API, which decides.
package web
