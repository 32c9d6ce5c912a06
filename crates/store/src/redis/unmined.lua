-- Counts again, for as long as the authorization could be used.
local hold = get(ARGV[1])
if hold and hold.mined ~= '-' then
  remove(ARGV[1])
  hold.mined, hold.version = '-', '-'
  hold.balance_until = hold.nonce_until
  put(ARGV[1], hold, 86400000)
end
return { 'done', '' }
