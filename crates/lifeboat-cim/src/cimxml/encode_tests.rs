//! Answers: golden texts, and what is written reads back.
