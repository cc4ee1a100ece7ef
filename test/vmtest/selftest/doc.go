// Package selftest tests the test VM itself: what other packages' tests may
// rely on. It holds nothing but tests, built with the tag vmtest.
package selftest
