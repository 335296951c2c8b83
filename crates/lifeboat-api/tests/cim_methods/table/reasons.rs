//! Why cells of the conformance table are empty: methods (or `*`: all), the answer, and the reason.

const JOBS: &str = "StartReplication ImportInitialReplica Resynchronize ReverseReplicationRelationship \
    ChangeReplicationModeToPrimary TestReplicaSystem InitiateFailover RevertFailover CommitFailover DestroySystem";
const READS: &str = "GetReplicationStatistics GetReplicationStatisticsEx GetSystemCertificates GetSummaryInformation \
    GetError GetErrorEx";
const SERVICE: &str = "Msvm_ReplicationService.RequestStateChange Msvm_ReplicationService.StartService \
    Msvm_VirtualSystemManagementService.RequestStateChange Msvm_VirtualSystemManagementService.StartService \
    Msvm_VirtualSystemSnapshotService.RequestStateChange Msvm_VirtualSystemSnapshotService.StartService";
const NOT_SERVED: &str = "InitiateFailback Msvm_ReplicationService.StopService";
const OF_NO_VM: &str = "ModifyServiceSettings AddAuthorizationEntry ModifyAuthorizationEntry RemoveAuthorizationEntry \
    TestReplicationConnection";

/// Methods by name, or by class and name; the answer; why it cannot occur.
pub const REASONS: &[(&str, u32, &str)] = &[
    ("*", 32771, "The host always knows how a call ended."),
    ("*", 32772, "No method has a time limit of its own: what takes long is a job, or goes on by itself."),
    ("*", 32778, "A daemon that gets no memory ends, and its successor goes on; nobody is left to answer."),
    (JOBS, 0, "It always takes its time, and is a job."),
    (NOT_SERVED, 0, "It is not served, see below."),
    ("*", 4096, "It is done when it is answered."),
];
