//! What is wrong with a request, as its answer says it.

use lamina_api::wire::read::{Problem, ReadError};
use lamina_api::wire::v1;

/// The most mistakes that one answer names.
pub const MAX_MISTAKES: usize = 100;

/// Mistakes of one transaction. Not empty when it is an error.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mistakes(pub Vec<v1::Mistake>);

/// A mistake of `code`.
pub fn mistake(code: &str, message: impl Into<String>, help: impl Into<String>) -> v1::Mistake {
    v1::Mistake { code: code.into(), message: message.into(), help: help.into(), ..v1::Mistake::default() }
}

impl From<v1::Mistake> for Mistakes {
    fn from(one: v1::Mistake) -> Self {
        Mistakes(vec![one])
    }
}

impl From<ReadError> for Mistakes {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Form(form) => mistake("wrong-form", form.message, form.help).into(),
            ReadError::Content(problems) => Mistakes(problems.into_iter().map(from_problem).collect()),
        }
    }
}

/// The mistake that `problem` is.
pub fn from_problem(problem: Problem) -> v1::Mistake {
    v1::Mistake { field: problem.field, ..mistake(problem.code, problem.message, problem.help) }
}

impl Mistakes {
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when more would not be shown.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_MISTAKES
    }

    /// Adds `more`, which are about `reference` and in operation `operation`, up to the limit.
    pub fn add(&mut self, more: Mistakes, reference: &v1::Ref, operation: u32) {
        for mut one in more.0 {
            if self.is_full() {
                return;
            }
            if one.r#ref.is_none() {
                one.r#ref = Some(reference.clone());
            }
            one.operation = operation;
            self.0.push(one);
        }
    }
}
