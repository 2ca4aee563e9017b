//! Devices: making, configuring, adopting and removing them.
