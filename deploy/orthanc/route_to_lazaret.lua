-- Sends every image that Orthanc gets to the modality `lazaret` of its configuration.
-- docs/pacs_orthanc.md says how to set both sides up.

-- What the guard itself stores here must not go round again.
local GUARD_MODALITIES = { SR = true, PR = true, KO = true }

function OnStoredInstance(instanceId, tags, metadata, origin)
   if origin['RequestOrigin'] == 'Lua' then
      return
   end
   if GUARD_MODALITIES[tags['Modality']] or tags['Manufacturer'] == 'Lazaret' then
      return
   end
   SendToModality(instanceId, 'lazaret')
end
