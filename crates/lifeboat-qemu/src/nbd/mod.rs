//! NBD: reading and writing exported disks, and asking which parts of them changed.
