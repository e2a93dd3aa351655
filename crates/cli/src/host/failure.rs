//! Why a command did not do what was asked, told to a person or to a program.
//!
//! A mistake that the daemon found in an object that came from a file is shown at its place in the file; without such a
//! place it is told with the object's name.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use lamina_api::wire::{Places, refusal, v1};
use lamina_api::{Code, Diagnostic, Report, Source, Span};
use serde_json::{Value, json};

use super::name;

/// The exit code of a command line that cannot be meant.
const USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens at the socket.
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What connecting said.
        why: String,
        /// The caller may not open it.
        is_denied: bool,
    },
    /// The daemon refused the call.
    Refused {
        /// The kind of refusal.
        code: tonic::Code,
        /// One sentence.
        message: String,
        /// Every mistake that it found.
        mistakes: Vec<Placed>,
        /// It was asked to change something.
        is_write: bool,
    },
    /// The files are wrong; the daemon was not asked.
    Policy(Report),
}

/// A command line that cannot be meant.
#[derive(Debug)]
pub struct Usage(pub String);

/// A mistake, and where it is in a file if it is in one.
#[derive(Debug)]
pub struct Placed {
    mistake: v1::Mistake,
    place: Option<(Source, Span)>,
}

impl Placed {
    /// `mistake`, looked for in `places`.
    pub fn new(mistake: v1::Mistake, places: &[Places<'_>]) -> Self {
        let place = mistake.r#ref.as_ref().and_then(|object| {
            let mut found = places
                .iter()
                .filter_map(|places| Some((places.source().clone(), places.find(object, &mistake.field)?)));
            found.next()
        });
        Placed { mistake, place }
    }

    /// The mistake for a person, drawn at its place.
    fn render(&self, is_warning: bool) -> String {
        let mistake = &self.mistake;
        if let Some((source, span)) = &self.place {
            let code = Code::ALL.iter().copied().find(|code| code.name() == mistake.code);
            let code = code.unwrap_or(Code::Conflict);
            let diagnostic = if is_warning {
                Diagnostic::warning(code, source, *span, &*mistake.message)
            } else {
                Diagnostic::error(code, source, *span, &*mistake.message)
            };
            let diagnostic =
                if mistake.help.is_empty() { diagnostic } else { diagnostic.help(&*mistake.help) };
            return Report::from(diagnostic).render(crate::policy::colours(&io::stderr()));
        }
        let kind = if is_warning { "warning" } else { "mistake" };
        let mut text = format!("{kind} [{}]: {}\n", mistake.code, mistake.message);
        if let Some(object) = &mistake.r#ref {
            let field = if mistake.field.is_empty() { String::new() } else { format!(": {}", mistake.field) };
            text.push_str(&format!("  in {}{field}\n", name::full(object)));
        }
        if !mistake.help.is_empty() {
            text.push_str(&format!("  help: {}\n", mistake.help));
        }
        text
    }

    fn to_json(&self) -> Value {
        let mistake = &self.mistake;
        let mut value = json!({
            "code": mistake.code, "message": mistake.message, "help": mistake.help,
            "object": mistake.r#ref.as_ref().map(name::to_json), "field": mistake.field,
            "operation": mistake.operation, "place": null,
        });
        if let Some((source, span)) = &self.place {
            let (line, column) = source.position(span.start);
            value["place"] = json!({ "file": &*source.name, "line": line, "column": column });
        }
        value
    }
}

/// Warnings for a person, as the text of standard error.
pub fn render_warnings(warnings: &[Placed]) -> String {
    warnings.iter().map(|warning| warning.render(true)).collect()
}

/// Mistakes for a program.
pub fn mistakes_json(mistakes: &[Placed]) -> Value {
    mistakes.iter().map(Placed::to_json).collect()
}

impl Failure {
    /// What `status` says of a transaction, its mistakes looked for in `places`.
    pub fn refused(status: &tonic::Status, places: &[Places<'_>]) -> Failure {
        let refusal = refusal(status.details()).unwrap_or_default();
        let mistakes = refusal.mistakes.into_iter().map(|mistake| Placed::new(mistake, places)).collect();
        Failure::Refused { code: status.code(), message: status.message().into(), mistakes, is_write: true }
    }

    fn to_json(&self) -> Value {
        match self {
            Failure::Unreachable { .. } => json!({ "kind": "unreachable", "message": self.to_string() }),
            Failure::Refused { code, mistakes, .. } => json!({
                "kind": "refused", "code": code_name(*code), "message": self.to_string(),
                "mistakes": mistakes_json(mistakes),
            }),
            Failure::Policy(report) => json!({
                "kind": "policy", "message": self.to_string(), "report": report.to_json(),
            }),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable { socket, why, is_denied } => {
                let help = if *is_denied {
                    "you may not open the socket: be in its group (see `socket-group` in laminad.toml) or root"
                } else {
                    "start it or name another with --socket"
                };
                write!(f, "cannot reach the daemon at {}: {why}; {help}", socket.display())
            }
            Failure::Refused { code, message, .. } if message.is_empty() => {
                write!(f, "the daemon refused: {}", code_name(*code))
            }
            Failure::Refused { message, .. } => write!(f, "the daemon refused: {message}"),
            Failure::Policy(_) => write!(f, "the files cannot be used; nothing was changed"),
        }
    }
}

impl Error for Failure {}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

/// `PermissionDenied` as `permission-denied`.
fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(c.to_lowercase());
    }
    name
}

impl Failure {
    /// `error` came of connecting to `socket`: its innermost cause is told.
    pub fn unreachable(socket: PathBuf, error: &(dyn Error + 'static)) -> Failure {
        let mut error = error;
        while let Some(source) = error.source() {
            error = source;
        }
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        let is_denied = kind == Some(io::ErrorKind::PermissionDenied);
        Failure::Unreachable { socket, why: error.to_string(), is_denied }
    }
}

/// Tells why a command failed, and what its exit code is.
pub fn tell(error: anyhow::Error, as_json: bool) -> ExitCode {
    // Whoever read the output has enough of it: `lamina events | head`.
    let is_closed_pipe = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
    if is_closed_pipe {
        return ExitCode::SUCCESS;
    }
    let error = match error.downcast::<tonic::Status>() {
        Ok(status) => {
            let mut failure = Failure::refused(&status, &[]);
            if let Failure::Refused { is_write, .. } = &mut failure {
                *is_write = false;
            }
            anyhow::Error::from(failure)
        }
        Err(error) => error,
    };
    let failure = error.downcast_ref::<Failure>();
    let is_usage = error.is::<Usage>();
    if as_json {
        let kind = if is_usage { "usage" } else { "failed" };
        let value = failure
            .map_or_else(|| json!({ "kind": kind, "message": format!("{error:#}") }), Failure::to_json);
        // A reader that is gone changes nothing of the failure.
        let _ = super::output::json(&json!({ "error": value }));
    } else {
        match failure {
            Some(Failure::Refused { mistakes, is_write, .. }) => {
                mistakes.iter().for_each(|mistake| eprint!("{}", mistake.render(false)));
                if !mistakes.is_empty() {
                    // The status's message would say the first of them again.
                    let end = if *is_write { "; nothing was changed" } else { "" };
                    eprintln!("error: the daemon refused{end}");
                    return ExitCode::FAILURE;
                }
            }
            Some(Failure::Policy(report)) => {
                eprint!("{}", report.render(crate::policy::colours(&io::stderr())));
            }
            _ => {}
        }
        eprintln!("error: {error:#}");
    }
    if is_usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_open_the_socket_is_told_so() {
        let told =
            |error: rustix::io::Errno| Failure::unreachable("/s".into(), &io::Error::from(error)).to_string();
        let denied = told(rustix::io::Errno::ACCESS);
        assert!(denied.contains("be in its group") && !denied.contains("start it"), "{denied}");
        let absent = told(rustix::io::Errno::NOENT);
        assert!(absent.contains("start it") && !absent.contains("group"), "{absent}");
    }

    #[test]
    fn codes_have_the_names_of_the_page() {
        assert_eq!(code_name(tonic::Code::PermissionDenied), "permission-denied");
        assert_eq!(code_name(tonic::Code::Ok), "ok");
    }
}
