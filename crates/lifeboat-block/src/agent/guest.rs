//! What is asked of a guest by its agent, one connection for each question. The answers come from a guest and are taken
//! for no more than that.

use std::path::Path;
use std::time::Duration;

use lifeboat_engine::ports::hypervisor::{GuestOs, GuestRun, HypervisorError};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{Agent, AgentError, ExecOutput};

/// How long an agent may take to say what system it runs on.
const ANSWER: Duration = Duration::from_secs(5);

/// Most bytes of a program's output that are kept.
const OUTPUT_MAX: usize = 4096;

/// The kind of system that the guest with the agent port `socket` runs. Waits at most 5 s for the answer.
///
/// # Errors
/// [`HypervisorError::Agent`] with the reason.
pub async fn os(socket: &Path) -> Result<GuestOs, HypervisorError> {
    let mut agent = Agent::connect(socket).await.map_err(agent_error)?;
    let info = agent.execute("guest-get-osinfo", Value::Null, ANSWER).await;
    Ok(system(&info.map_err(agent_error)?))
}

/// Distributions have many ids and Windows has one; the other systems an agent exists for are few.
fn system(info: &Value) -> GuestOs {
    let id = info.get("id").and_then(Value::as_str).unwrap_or_default();
    match id.to_ascii_lowercase().as_str() {
        "mswindows" => GuestOs::Windows,
        "freebsd" | "openbsd" | "netbsd" | "dragonfly" | "solaris" | "illumos" | "macos" => GuestOs::Other,
        // An agent that knows nothing else knows its kernel.
        "" if info.get("kernel-release").is_none() => GuestOs::Other,
        _ => GuestOs::Linux,
    }
}

/// Runs a program in the guest with the agent port `socket` and waits for its end within `limit`. Of what it prints the first
/// 4096 bytes are kept, errors before the rest.
///
/// # Errors
/// [`HypervisorError::Agent`] with the reason; a program that fails is no error, see [`GuestRun::code`].
pub async fn run(
    socket: &Path,
    program: &str,
    arguments: &[String],
    limit: Duration,
) -> Result<GuestRun, HypervisorError> {
    let deadline = Instant::now() + limit;
    let ran = async {
        let mut agent = Agent::connect(socket).await?;
        agent.exec(program, arguments, limit).await
    };
    let ran = timeout_at(deadline, ran).await.unwrap_or_else(|_| {
        Err(AgentError::Timeout {
            command: "guest-exec".to_owned(),
            after: limit,
        })
    });
    let ran = ran.map_err(agent_error)?;
    Ok(GuestRun {
        code: ran.exit,
        output: output(&ran),
    })
}

/// The beginning of both streams; the errors have at least half of the room.
fn output(ran: &ExecOutput) -> String {
    let errors = text(&ran.stderr, OUTPUT_MAX);
    let room = OUTPUT_MAX - errors.len().min(OUTPUT_MAX / 2);
    let mut all = text(&ran.stdout, room);
    let errors = text(errors.as_bytes(), OUTPUT_MAX - all.len());
    all.push_str(&errors);
    all
}

/// At most `room` bytes of it as text, ending between two characters.
fn text(bytes: &[u8], room: usize) -> String {
    let mut text = String::from_utf8_lossy(bytes.get(..room).unwrap_or(bytes)).into_owned();
    let end = (0..=room.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or_default());
    text
}

fn agent_error(error: AgentError) -> HypervisorError {
    HypervisorError::Agent(error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn systems_are_told_apart() {
        let table = [
            (
                json!({"id": "mswindows", "kernel-release": "20348"}),
                GuestOs::Windows,
            ),
            (json!({"id": "debian", "kernel-release": "6.1.0"}), GuestOs::Linux),
            (json!({"kernel-release": "6.1.0"}), GuestOs::Linux),
            (json!({"id": "freebsd", "kernel-release": "14.1"}), GuestOs::Other),
            (json!({}), GuestOs::Other),
            (json!(7), GuestOs::Other),
        ];
        for (info, expected) in table {
            assert_eq!(system(&info), expected, "{info}");
        }
    }

    #[test]
    fn output_is_bounded_and_errors_are_not_pushed_out() {
        let ran = |stdout: &str, stderr: &str| ExecOutput {
            exit: Some(0),
            signal: None,
            stdout: stdout.into(),
            stderr: stderr.into(),
            truncated: false,
        };
        assert_eq!(output(&ran("out", "err")), "outerr");
        let long = "ü".repeat(9000);
        let both = output(&ran(&long, &long));
        assert!(
            both.len() <= OUTPUT_MAX && both.len() > OUTPUT_MAX - 8,
            "{}",
            both.len()
        );
        assert!(output(&ran(&long, "why")).ends_with("why"));
        assert!(output(&ran("what", &long)).starts_with("what"));
        let binary = ExecOutput {
            stdout: vec![0xff; 9000],
            ..ran("", "")
        };
        assert!(output(&binary).len() <= OUTPUT_MAX);
    }
}
