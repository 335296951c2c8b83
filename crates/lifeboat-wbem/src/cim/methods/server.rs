//! Methods of the replication service about this host: its settings, its authorization entries, its certificates and its
//! connection to other hosts; and methods that all services have in common.

use crate::cim::embedded::advised;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lifeboat_cim::InstanceName;
use lifeboat_engine::action::{Action, Refusal};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::query::Query;
use lifeboat_model::AuthorizationEntry;
use lifeboat_model::api::ReturnCode;
use lifeboat_tls::certificate_chain;

use super::{Answered, Call, Outcome, missing};
use crate::cim::embedded::{self, invalid, shown, unsupported};
use crate::cim::{Certificates, VIRTUALIZATION};

const ENTRY: &str = "AuthorizationEntry";
const PRIMARY: &str = "AllowedPrimaryHostSystem";

pub(super) async fn modify(call: &Call<'_>) -> Answered {
    let given = call.arguments.instance("SettingData")?;
    let server = call.query(Query::show_server()).await?;
    let name = InstanceName::new("Msvm_ReplicationServiceSettingData", &[]);
    let shown_now = call.manager.get(VIRTUALIZATION, &name).await;
    let shown_now = shown_now.map_err(|e| advised(ReturnCode::Failed, e.message, ""))?;
    let settings = embedded::server(given, &shown_now, server.settings, call.manager.ahead_of_utc())?;
    call.done(Action::SetServer { settings }).await
}

async fn entries(call: &Call<'_>) -> Result<Vec<AuthorizationEntry>, Refusal> {
    call.whole(Query::list_authorization(Paging::FIRST)).await
}

fn find<'a>(entries: &'a [AuthorizationEntry], primary: &str) -> Option<&'a AuthorizationEntry> {
    entries
        .iter()
        .find(|e| e.primary.eq_ignore_ascii_case(primary.trim()))
}

fn no_entry(primary: &str) -> Refusal {
    let message = format!("there is no authorization entry for \"{}\"", shown(primary));
    advised(
        ReturnCode::FileNotFound,
        message,
        "enumerate Msvm_ReplicationAuthorizationSettingData",
    )
}

pub(super) async fn add_entry(call: &Call<'_>) -> Answered {
    let entry = embedded::authorization(call.arguments.instance(ENTRY)?, None)?;
    // The engine would replace the entry, for which this API has ModifyAuthorizationEntry.
    match find(&entries(call).await?, &entry.primary) {
        Some(_) => Err(invalid(format!(
            "there is an authorization entry for \"{}\" already",
            entry.primary
        ))),
        None => call.done(Action::AddAuthorization { entry }).await,
    }
}

pub(super) async fn modify_entry(call: &Call<'_>) -> Answered {
    let given = call.arguments.instance(ENTRY)?;
    let primary = given.text(PRIMARY).ok_or_else(|| missing(PRIMARY))?;
    let entries = entries(call).await?;
    let before = find(&entries, primary).ok_or_else(|| no_entry(primary))?;
    let entry = embedded::authorization(given, Some(before))?;
    call.done(Action::AddAuthorization { entry }).await
}

pub(super) async fn remove_entry(call: &Call<'_>) -> Answered {
    let primary = call.arguments.text(PRIMARY).ok_or_else(|| missing(PRIMARY))?;
    let primary = find(&entries(call).await?, primary)
        .map(|e| e.primary.clone())
        .ok_or_else(|| no_entry(primary))?;
    call.done(Action::RemoveAuthorization { primary }).await
}

/// Binds a VM to an entry that exists.
pub(super) async fn set_entry(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?;
    let primary = call.read(vm, known_primary(call).await).await?;
    let vm = vm.into();
    call.done(Action::SetAuthorization { vm, primary }).await
}

/// The primary of the entry that is given, as the entry of this host writes it.
async fn known_primary(call: &Call<'_>) -> Result<String, Refusal> {
    let given = call.arguments.instance(ENTRY)?;
    let primary = given.text(PRIMARY).ok_or_else(|| missing(PRIMARY))?;
    let entries = entries(call).await?;
    let known = find(&entries, primary).ok_or_else(|| no_entry(primary))?;
    Ok(known.primary.clone())
}

pub(super) async fn connection(call: &Call<'_>) -> Answered {
    let given = &call.arguments;
    let host = given
        .text("RecoveryConnectionPoint")
        .ok_or_else(|| missing("RecoveryConnectionPoint"))?;
    let port = given
        .number("RecoveryServerPortNumber")
        .and_then(|p| u16::try_from(p).ok());
    let port = port
        .filter(|p| *p != 0)
        .ok_or_else(|| missing("RecoveryServerPortNumber"))?;
    match given.number("AuthenticationType") {
        Some(2) => {}
        None => return Err(missing("AuthenticationType")),
        Some(1) => {
            return Err(unsupported(
                "AuthenticationType 1 (Kerberos) is not offered",
                "hosts know each other by certificates: use 2",
            ));
        }
        Some(other) => {
            return Err(invalid(format!(
                "AuthenticationType {other}: use 2 (certificate)"
            )));
        }
    }
    let peer = embedded::peer(host, port);
    call.done(Action::TestConnection { peer }).await
}

pub(super) async fn certificates(call: &Call<'_>) -> Answered {
    let certificates = match &call.manager.host.certificates {
        Certificates::Fixed(all) => all.clone(),
        Certificates::File(path) => certificate_chain(path)
            .map(|chain| chain.iter().map(|der| der.to_vec()).collect())
            .map_err(|e| {
                let message = e.to_string();
                advised(ReturnCode::Failed, message, "")
            })?,
    };
    let encoded: Vec<String> = certificates.iter().map(|der| BASE64.encode(der)).collect();
    Ok(Outcome::done().with("EncodedCertificates", encoded))
}

/// Enabling succeeds, because a service is enabled while the daemon runs; every other state is refused.
pub(super) async fn request_state_change(call: &Call<'_>) -> Answered {
    const ENABLED: u64 = 2;
    match call.arguments.number("RequestedState") {
        Some(ENABLED) => Ok(Outcome::done()),
        _ => Err(unsupported("a service is enabled as long as the daemon runs", "")),
    }
}

/// Succeeds, because a service that answers runs.
pub(super) async fn start_service(_: &Call<'_>) -> Answered {
    Ok(Outcome::done())
}
