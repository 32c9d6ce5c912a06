local member, tenant, digest, now = ARGV[1], ARGV[2], ARGV[3], moment(ARGV[4])
local hold = get(member)
if hold and hold.tenant == tenant and hold.digest == digest and hold.settling == '0' and hold.mined == '-'
    and tonumber(hold.nonce_until) > now then
  remove(member)
  return { 'released', '' }
end
return { 'kept', '' }
