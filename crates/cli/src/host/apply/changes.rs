//! What a transaction changed, told to a person or a program.

use lamina_api::wire::Places;
use lamina_api::wire::v1::{ApplyReply, Change, ChangeKind};
use serde_json::{Value, json};

use super::difference;
use crate::host::failure::{Placed, mistakes_json, render_warnings};
use crate::host::output::{count, duration, line, text};
use crate::host::{Host, name, object, output};

/// The word for what happened to an object.
pub fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Unspecified => "unknown",
        ChangeKind::Created => "created",
        ChangeKind::Updated => "updated",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Existing => "existing",
        ChangeKind::Synced => "synced",
    }
}

/// Prints what changed, or what would: then with the lines that differ.
pub async fn print(
    host: &mut Host,
    reply: ApplyReply,
    dry_run: bool,
    places: &[Places<'_>],
    as_json: bool,
) -> anyhow::Result<()> {
    let warnings = reply.warnings.iter().cloned().map(|mistake| Placed::new(mistake, places));
    let warnings: Vec<Placed> = warnings.collect();
    let mut differences = Vec::new();
    for change in &reply.changes {
        let is_shown = dry_run && change.kind() == ChangeKind::Updated;
        differences.push(if is_shown { difference(host, change).await? } else { None });
    }
    if as_json {
        let changes = reply.changes.iter().zip(&differences);
        let changes: Vec<Value> = changes.map(|(change, difference)| to_json(change, difference)).collect();
        output::json(&json!({
            "revision": reply.revision, "dry-run": dry_run,
            "created": reply.created, "updated": reply.updated, "deleted": reply.deleted,
            "unchanged": reply.unchanged, "effective-after": reply.effective_after,
            "changes": changes, "warnings": mistakes_json(&warnings),
        }))?;
        return Ok(());
    }
    eprint!("{}", render_warnings(&warnings));
    for (change, difference) in reply.changes.iter().zip(&differences) {
        let named = change.object.as_ref().map(object::reference).unwrap_or_default();
        let would = if dry_run { "would be " } else { "" };
        line(&format!("{would}{} {}", word(change.kind()), name::full(&named)))?;
        if let Some(difference) = difference {
            text(difference)?;
        }
    }
    let total = reply.created + reply.updated + reply.deleted;
    let listed = reply.changes.len() as u64;
    if total > listed {
        line(&format!("... and {} more", total - listed))?;
    }
    let counts = format!(
        "{} created, {} updated, {} deleted, {} unchanged",
        reply.created, reply.updated, reply.deleted, reply.unchanged
    );
    let warnings = match warnings.len() {
        0 => String::new(),
        some => format!(", {}", count(some as u64, "warning")),
    };
    if dry_run {
        line(&format!("{counts}{warnings}; a dry run, nothing was changed (revision {})", reply.revision))?;
    } else {
        let after = duration(reply.effective_after);
        line(&format!("{counts}{warnings}; revision {}, in force after {after}", reply.revision))?;
    }
    Ok(())
}

/// The lines by which the object of `change` would differ from what is there.
async fn difference(host: &mut Host, change: &Change) -> anyhow::Result<Option<String>> {
    let Some(new) = &change.object else { return Ok(None) };
    let old = object::list(host, object::reference(new), "").await?;
    let Some(old) = old.first() else { return Ok(None) };
    let lines = difference::lines(&object::yaml(old)?, &object::yaml(new)?);
    Ok(Some(lines.into_iter().map(|line| format!("    {line}\n")).collect()))
}

fn to_json(change: &Change, difference: &Option<String>) -> Value {
    let named = change.object.as_ref().map(object::reference).unwrap_or_default();
    json!({
        "change": word(change.kind()), "object": name::to_json(&named), "difference": difference,
    })
}
