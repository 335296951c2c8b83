//! Why cells of the conformance table are empty: methods (or `*`: all others), answers, and the reason.

const JOBS: &str = "StartReplication ImportInitialReplica Resynchronize ReverseReplicationRelationship \
    ChangeReplicationModeToPrimary TestReplicaSystem InitiateFailover RevertFailover CommitFailover DestroySystem";
const READS: &str = "GetReplicationStatistics GetReplicationStatisticsEx GetSystemCertificates GetSummaryInformation \
    GetError GetErrorEx";
const SERVICE: &str = "Msvm_ReplicationService.RequestStateChange StartService \
    Msvm_VirtualSystemManagementService.RequestStateChange Msvm_VirtualSystemSnapshotService.RequestStateChange";
const NOT_SERVED: &str = "InitiateFailback StopService";
const OF_THE_HOST: &str = "ModifyServiceSettings AddAuthorizationEntry ModifyAuthorizationEntry \
    RemoveAuthorizationEntry TestReplicationConnection GetSystemCertificates GetError GetErrorEx";
const OF_THE_VM: &str = "RequestReplicationStateChange RequestReplicationStateChangeEx \
    Msvm_ComputerSystem.RequestStateChange InitiateShutdown";
const JOB: &str = "Msvm_ConcreteJob.RequestStateChange";

/// Why it cannot occur. The first reason that fits counts.
pub const REASONS: &[(&str, &[u32], &str)] = &[
    (
        NOT_SERVED,
        &[
            0, 4096, 32768, 32769, 32770, 32773, 32774, 32775, 32776, 32777, 32779,
        ],
        "It is not served, and says so to everybody in every state; see below.",
    ),
    (
        SERVICE,
        &[4096, 32768, 32770, 32773, 32774, 32775, 32776, 32777, 32779],
        "It has no numbers but 0 and 1 (not supported), beside the one for a role.",
    ),
    (
        JOB,
        &[4096, 32768, 32770, 32773, 32774, 32775, 32776, 32777, 32779],
        "It has numbers of its own: 1 not supported, 4 failed, 5 bad parameter, 6 in use, 4097 wrong state, 4098 no time \
         limits. What cannot be ended at this moment ends by itself and is 1.",
    ),
    (JOBS, &[0], "It always takes its time, and is a job."),
    ("*", &[4096], "It is done when it is answered."),
    (
        "GetSystemCertificates GetError GetErrorEx",
        &[32768],
        "It answers from memory, which does not fail.",
    ),
    (
        "TestReplicationConnection",
        &[32768],
        "Another host that is not reached is 32777, one that does not let this one in 32769; one that answers with something \
         else than Lifeboat's protocol would be 32768, and no simulated host does.",
    ),
    (
        "GetReplicationStatistics GetReplicationStatisticsEx GetSummaryInformation",
        &[32768],
        "A VM whose process does not answer is shown with everything else that is known of it.",
    ),
    (READS, &[32769], "Reading is open to every role."),
    (
        "*",
        &[32770],
        "Everything that can be asked for with its parameters is served.",
    ),
    ("*", &[32771], "The host always knows how a call ended."),
    (
        "*",
        &[32772],
        "No method has a time limit of its own: what takes long is a job, or goes on by itself.",
    ),
    (
        "GetSystemCertificates GetError GetErrorEx",
        &[32773],
        "It has no parameters.",
    ),
    (
        OF_THE_HOST,
        &[32774],
        "It needs nothing that something else could have in use.",
    ),
    (
        "*",
        &[32774],
        "A call waits for its turn at the VM; what lasts longer is a state, and answered as one (32775).",
    ),
    (OF_THE_HOST, &[32775], "It can be asked for in every state."),
    (
        "GetSummaryInformation DestroySystem",
        &[32775],
        "It can be asked for in every state.",
    ),
    (
        "InitiateShutdown",
        &[32775],
        "The component exists only while the guest runs; without it the call is an error: not found.",
    ),
    (OF_THE_HOST, &[32776], "It has no reference among its parameters."),
    (
        "InitiateShutdown",
        &[32776],
        "It has no reference among its parameters.",
    ),
    (
        "*",
        &[32777],
        "No other host has to answer before this one does. What is left is a call that meets a daemon at the moment of its \
         end.",
    ),
    (
        "*",
        &[32778],
        "A daemon that gets no memory ends, and its successor goes on; nobody is left to answer.",
    ),
    (
        "SetFailoverNetworkAdapterSettings ModifyServiceSettings GetSummaryInformation",
        &[32779],
        "The API does not list it for this method: what does not exist is a bad parameter (32773).",
    ),
    (
        OF_THE_VM,
        &[32779],
        "The VM is the instance that is called; one that does not exist is an error: not found.",
    ),
    (OF_THE_HOST, &[32779], "It names nothing that could be missing."),
];
