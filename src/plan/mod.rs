//! Checked definition → sealed plan.
