package config

// WatchWith is Watch with a clock of the test's own.
var WatchWith = watch
