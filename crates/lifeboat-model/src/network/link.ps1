& { param([string]$mac, [string]$mode, [string]$addresses, [string]$gateways, [string]$dns)
$ErrorActionPreference = 'Stop'
$card = Get-NetAdapter | Where-Object { $_.MacAddress -eq $mac } | Select-Object -First 1
if (-not $card) { Write-Output ('no network card has the address ' + $mac); exit 3 }
$at = @{ InterfaceIndex = $card.ifIndex }
function Words([string]$list) { $list.Split(',') | Where-Object { $_ } }
function Family([string]$address) { if ($address.Contains(':')) { 'IPv6' } else { 'IPv4' } }
if ($mode -eq 'static') {
foreach ($family in @(Words $addresses | ForEach-Object { Family $_ } | Select-Object -Unique)) {
Set-NetIPInterface @at -AddressFamily $family -Dhcp Disabled
Get-NetRoute @at -AddressFamily $family -ErrorAction SilentlyContinue | Where-Object { $_.DestinationPrefix -in '0.0.0.0/0', '::/0' } | Remove-NetRoute -Confirm:$false
Get-NetIPAddress @at -AddressFamily $family -ErrorAction SilentlyContinue | Where-Object { $_.PrefixOrigin -ne 'WellKnown' } | Remove-NetIPAddress -Confirm:$false
}
foreach ($address in @(Words $addresses)) { $part = $address.Split('/'); New-NetIPAddress @at -IPAddress $part[0] -PrefixLength $part[1] | Out-Null }
foreach ($gateway in @(Words $gateways)) { $all = if ((Family $gateway) -eq 'IPv6') { '::/0' } else { '0.0.0.0/0' }; New-NetRoute @at -DestinationPrefix $all -NextHop $gateway | Out-Null }
}
if ($mode -eq 'dhcp') {
Get-NetRoute @at -AddressFamily IPv4 -ErrorAction SilentlyContinue | Where-Object { $_.DestinationPrefix -eq '0.0.0.0/0' } | Remove-NetRoute -Confirm:$false
Get-NetIPAddress @at -AddressFamily IPv4 -ErrorAction SilentlyContinue | Where-Object { $_.PrefixOrigin -eq 'Manual' } | Remove-NetIPAddress -Confirm:$false
Set-NetIPInterface @at -Dhcp Enabled
if (-not $dns) { Set-DnsClientServerAddress @at -ResetServerAddresses }
}
if ($dns) { Set-DnsClientServerAddress @at -ServerAddresses @(Words $dns) }
}
