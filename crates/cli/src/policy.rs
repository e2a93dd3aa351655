//! Policy files: read, parsed and converted together, as the policy of one host.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use lamina_api::{Document, Report};
use lamina_daemon::convert::{Converted, PortIds, merge};

/// Reads `path`; `-` is standard input.
pub fn read(path: &Path) -> anyhow::Result<(String, String)> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(("<stdin>".into(), text));
    }
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let text = String::from_utf8(bytes).ok().with_context(|| format!("{name} is not a text in UTF-8"))?;
    Ok((name, text))
}

/// The policy that `paths` make together, or what is wrong with it. Mistakes of all files are told together. The
/// outer error is about reading them.
pub fn load(paths: &[PathBuf], ids: &mut PortIds) -> anyhow::Result<Result<Converted, Report>> {
    let mut documents: Vec<Document> = Vec::new();
    let mut report = Report::new();
    for path in paths {
        let (name, text) = read(path)?;
        match lamina_api::parse(&name, &text) {
            Ok(document) => documents.push(document),
            Err(mistakes) => report.append(mistakes),
        }
    }
    Ok(if report.has_errors() { Err(report) } else { merge(&documents, ids) })
}

/// True where colours may be written to `stream`.
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
