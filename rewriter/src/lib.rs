//! Rewriter.
