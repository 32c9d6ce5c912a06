local member, tenant, digest, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local hold = get(member)
if hold and hold.tenant == tenant and hold.digest == digest and hold.version == version then
  remove(member)
  return { 'released', '' }
end
return { 'kept', '' }
