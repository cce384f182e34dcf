"""The topics of the suites, a class each; `BackendSuite` and `DeviceSuite` put them together."""
